"""The Dataset tab: a folder of pictures looked at, mended, cropped, masked and captioned."""
