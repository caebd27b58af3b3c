"""A headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import aiohttp

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_SECONDS = 40.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


def text(name: str) -> str:
    return f"document.getElementById('{name}').textContent"


def click(selector: str) -> str:
    return f"document.querySelector('{selector}').click()"


class Chromium:
    """One browser with one page. ``async with Chromium(folder) as page``."""

    def __init__(self, profile: Path):
        self.profile = profile
        self.problems: list[str] = []
        """Exceptions and errors the page reported."""
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future] = {}
        self._target: str | None = None

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(
            [EXECUTABLE, *FLAGS, f"--user-data-dir={self.profile}", "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port, path = await self._wait_for_port()
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._target = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._http.close()
        self._process.terminate()
        self._process.wait(10)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._target:
            message["sessionId"] = self._target
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        return await asyncio.wait_for(self._answers[number], 30)

    async def resize(self, width: int, height: int, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        await self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 20.0) -> Any:
        """The expression's value once it is true. Raises TimeoutError."""
        ends = time.monotonic() + seconds
        while True:
            if value := await self.evaluate(expression):
                return value
            if time.monotonic() > ends:
                raise TimeoutError(f"never true: {expression}")
            await asyncio.sleep(0.03)

    async def key(self, kind: str, code: str, key: str | None = None) -> None:
        """kind: keyDown or keyUp."""
        await self.call("Input.dispatchKeyEvent", type=kind, code=code, key=key or code)

    async def touch(self, kind: str, x: float = 0, y: float = 0) -> None:
        """kind: touchStart or touchEnd."""
        points = [{"x": x, "y": y}] if kind == "touchStart" else []
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    async def mouse(self, kind: str, x: float, y: float, button: str = "none") -> None:
        """kind: mousePressed, mouseReleased or mouseMoved."""
        count = 0 if button == "none" else 1
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=count)

    async def screenshot(self, path: Path, whole_page: bool = False) -> None:
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=whole_page)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def _wait_for_port(self) -> tuple[str, str]:
        file = self.profile / "DevToolsActivePort"
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines[0], lines[1]
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{EXECUTABLE} did not start")

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if "error" in data:
                    answer.set_exception(RuntimeError(data["error"]["message"]))
                else:
                    answer.set_result(data["result"])
            elif data["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(data["params"]["exceptionDetails"]))
            elif data["method"] == "Log.entryAdded" and data["params"]["entry"]["level"] == "error":
                self.problems.append(data["params"]["entry"]["text"])
