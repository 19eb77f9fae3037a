"""The three classes of a trimap's pixels: their numbers, names and colours."""

CLASSES = ("pet", "background", "border")  # class 0, 1, 2; the files say 1, 2, 3
PET, BACKGROUND, BORDER = range(3)
COLOURS = ("#f4a259", "#3b5b7a", "#f5f1e6")
