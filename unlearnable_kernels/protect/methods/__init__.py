"""The protection methods, one file each, their parts beside them."""
