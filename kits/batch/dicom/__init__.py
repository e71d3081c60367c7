"""DICOM objects of a case whose scan came as DICOM: segmentation, RT structure set, measurement report."""
