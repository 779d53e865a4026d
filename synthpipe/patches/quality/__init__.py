"""Measure donors: labels that look wrong, blur, glass, pen marks, folds and copies."""
