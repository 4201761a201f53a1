"""A shop on FastAPI, Starlette and Litestar: the contract, the handlers, and one module for each framework."""
