"""The split measured: what each part costs, and which way of answering an image is the best one.

`model_profile` counts parameters, multiply-adds, bytes and time of a model's parts. `ways` are the
ways in which a device and a server can share the work; `timing` times them on the same images,
`links` and `real_link` send what they send, `energy` says what it costs a device, `accuracy` what
the answers are worth. `results` puts it together; `tables` and `figures` show it.
"""
