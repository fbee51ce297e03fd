"""The server: payloads come in over HTTP, answers go out.

`engine` answers (`models` holds the models, `batching` puts payloads together), in this process or,
through `replicas`, in several of Ray Serve's; `app` is the web application in front of either, and
`server` runs that until it is told to stop.
"""
