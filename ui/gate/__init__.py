"""What comes into the studio and what leaves it: who may enter, uploads, what may be fetched."""
