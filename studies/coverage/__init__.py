"""How much of the world's networks archlab reads: every torchvision and timm family, some of Hugging Face's."""
