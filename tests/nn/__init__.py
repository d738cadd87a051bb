"""Tests of `xpcnn.nn`, and of `xpcnn.testing`, which they lean on."""
