"""Data folders, splits, checks, DICOM series, writers and generated cases."""
