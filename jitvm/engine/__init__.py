"""The accelerator: from guest bytes to native code.  The order of the data: forms, translate, stitch, backend, run."""
