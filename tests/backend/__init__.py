"""Tests of `xpcnn.backend`: where arrays are created, how they cross, and what the ops lean on."""
