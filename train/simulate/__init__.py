"""CT volumes simulated from label maps and from other people's scans, in the folder form of KiTS.

Two means, a module each: ``grown`` grows tumours and cysts in the kidneys of a real scan, ``painted`` puts whole
kidneys of a label map in place of a real scan's own. ``command`` is the command line. Arrays are (z, y, x) in canonical
orientation (see ``kits.io.volume``), lengths in mm, values in HU.
"""
