"""Everything that makes the bundled demo base: pictures, VAE, text encoder, UNet, export."""
