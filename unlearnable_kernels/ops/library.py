"""The dispatcher's library that every operator defines its schema in."""

import torch

LIBRARY = torch.library.Library("unlearn", "DEF")
