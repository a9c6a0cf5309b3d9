"""What every family stands on. Import from the files: the losses use ``core.outputs`` without Lightning."""
