"""Slices that HAMi gives to our container: what it says of them, and whether anything enforces it."""
