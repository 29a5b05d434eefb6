"""A headless Chromium for tests of pages: what it logs, and pictures of what it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

# Where CI finds what the page looked like; git ignores it.
SCREENSHOTS = Path(__file__).resolve().parents[1] / "build" / "screenshots"
# It looks for nothing but the page, and asks no host of its maker's.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """Chromium with a window of a size, and the errors of its console."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._log: list[dict[str, Any]] = []

    def open(self, link: str) -> None:
        self._driver.get(link)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def ask(self, script: str) -> Any:
        return self._driver.execute_script(f"return {script}")

    def text(self) -> str:
        """All that can be read, inside Bokeh's shadow roots too."""
        return self.ask(
            "(function read(node) { return [...node.childNodes].map(child => child.nodeType == 3 ? "
            "child.data : read(child)).concat(node.shadowRoot ? read(node.shadowRoot) : []).join(' ') })"
            "(document.body)"
        )

    def picture(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        assert self._driver.save_screenshot(str(path))
        return path

    def turn_wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel of the mouse at a point of the window; below zero, figures are zoomed into."""
        turned = {"deltaX": 0, "deltaY": delta}
        for event in ({"type": "mouseMoved"}, {"type": "mouseWheel"} | turned):
            self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", event | {"x": x, "y": y})

    def complaints(self) -> list[str]:
        """Warnings and errors in the console since the page was opened."""
        self._log += self._driver.get_log("browser")
        return [entry["message"] for entry in self._log if entry["level"] in ("WARNING", "SEVERE")]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, or a skipped test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(opened)
    finally:
        opened.quit()
