"""What a label map says in millimetres and millilitres: kidneys, lesions, nephrometry.

The definitions are in docs/measurements.md. For research; not a medical device.
"""
