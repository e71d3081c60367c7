"""Tumours and cysts as augmentation draws them: grown in a kidney, or pasted from another patient's slice."""
