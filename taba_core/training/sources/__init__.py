"""Sources of training images, one a module, found by being there; `taba_core.training.data` opens them by name."""
