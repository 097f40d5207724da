"""Back ends: kernel bodies to code images. They import `ir`, never a pass or a front end."""
