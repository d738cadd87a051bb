"""Tests of the pure functions of `xpcnn.ops`; a package so that other folders may use the same file names."""
