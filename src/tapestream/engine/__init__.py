"""The copy engine: plan, buffers, pipeline, copy."""
