"""The device's half without PyTorch: what is here needs numpy and Pillow only.

`ladon export edge` copies these modules into the folder that goes to the device.
"""
