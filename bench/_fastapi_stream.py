"""The usual Python server of a stream: FastAPI's StreamingResponse, with server-sent events. BENCH_TOKEN: see _token_file.py."""
import os

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from _token_file import Token

app = FastAPI()
token = Token(*os.environ["BENCH_TOKEN"].split())


@app.post("/stream")
async def stream():
    return StreamingResponse(token(), media_type="text/event-stream")
