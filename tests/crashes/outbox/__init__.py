"""The relay under kill -9: real workers, a simulator that counts, and controls that have to fail."""
