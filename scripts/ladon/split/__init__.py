"""A model in its two halves: the device's, an image to a payload, and the server's, a payload to
answers.

    model = ladon.load("configs/….yaml")
    payload = model.encode("photo.jpg")
    answers = model.answer(payload, heads=("classification", "detection"))
"""
