"""Video, images and actions, from files and to files."""
