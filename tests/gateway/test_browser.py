"""The page in a real browser: an answer that grows, a node that dies under it, the picture that follows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.demo_model import ANSWER, LOOPBACK, QUESTION, WEIGHTS
from tests.gateway.serving import ADDRESSES, MODEL, PORTS, Gateway, find_busy, start_two
from tests.processes import Node, stop_all

CHROMIUM = shutil.which("chromium")
# Without these it asks hosts of its maker's at every start.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
LONG = {"temperature": 2, "seed": 5, "max_tokens": 400, "ignore_eos": True}

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def nodes(home: Path) -> Iterator[list[Node]]:
    started = start_two(home)
    yield started
    stop_all([node for node in started if node.process.poll() is None])


@pytest.fixture(scope="module")
def served(home: Path, nodes: list[Node]) -> Iterator[Gateway]:
    gateway = Gateway(home, ADDRESSES)
    yield gateway
    gateway.stop()
    assert not gateway.errors


@pytest.fixture
def page(browser: Browser, served: Gateway) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith(served.url) else complaints.append(asked.url))
    opened.goto(served.url)
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    context.close()
    assert complaints == []


def ask(page: Page, question: str) -> None:
    page.fill("#question", question)
    page.keyboard.press("Enter")


def test_a_question_is_answered_and_kept(page: Page) -> None:
    ask(page, QUESTION)
    expect(page.locator(".answer p").first).to_have_text(ANSWER)
    expect(page.locator(".about")).to_contain_text("18 tokens")
    expect(page.locator(".why summary")).to_contain_text("of a token")
    page.locator(".why summary").click()
    expect(page.locator(".why li")).to_have_count(1)
    expect(page.locator(".why li")).to_contain_text("compute")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".answer.waiting")).to_have_count(0)
    expect(page.locator(".answer p").first).to_have_text(ANSWER)
    ask(page, "What is a hop?")
    expect(page.locator(".about").nth(1)).to_contain_text("tokens of the prompt were cached")
    page.reload()
    expect(page.locator(".answer p").first).to_have_text(ANSWER)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".answer")).to_have_count(0)
    page.get_by_role("button", name=QUESTION).click()
    expect(page.locator(".answer")).to_have_count(2)
    page.get_by_role("button", name="Forget it").last.click()
    expect(page.locator(".answer")).to_have_count(0)


def test_an_answer_is_stopped(page: Page) -> None:
    make_longer(page)
    ask(page, QUESTION)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".about")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_it_fits_a_phone_and_can_be_used_by_keyboard(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_role("button", name="The swarm").press("Enter")
    expect(page.locator("#swarm")).to_be_visible()
    page.get_by_role("button", name="The swarm").press("Enter")
    expect(page.locator("#swarm")).to_be_hidden()
    widths = page.locator("html").evaluate("element => [element.scrollWidth, element.clientWidth]")
    assert widths[0] <= widths[1]


def make_longer(page: Page) -> None:
    """What the page asks for goes on for a while: the demo model's own answers are over at once."""

    def change(route: Any) -> None:
        route.continue_(post_data=json.dumps(json.loads(route.request.post_data) | LONG))

    page.route("**/v1/chat/completions", change)


def test_a_node_that_dies_in_mid_answer_changes_no_word_of_it(
    page: Page, served: Gateway, nodes: list[Node], home: Path
) -> None:
    expect(page.locator(".machine")).to_have_count(2)
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **LONG}
    told = served.ask("/v1/chat/completions", asked)[2]["choices"][0]["message"]["content"]
    make_longer(page)
    ask(page, QUESTION)
    first = wait_for_text(page, "")
    second = wait_for_text(page, first)
    assert len(second) > len(first)
    expect(page.locator(".machine.answers")).to_have_count(1)
    find_busy(nodes).kill()
    expect(page.locator(".machine")).to_have_count(1, timeout=2500)
    expect(page.locator(".about")).to_contain_text("changed chains once", timeout=30_000)
    kept = page.locator("html").evaluate("() => localStorage.getItem('swarm-talks')")
    assert json.loads(kept)[0]["messages"][-1]["content"] == told
    (left,) = (node for node in nodes if node.process.poll() is None)
    port = PORTS[nodes.index(left) - 1]  # where the other one was
    options = ["--weights", WEIGHTS, *LOOPBACK, "--no-mdns", "--port", str(port), "--name", "newcomer"]
    nodes.append(Node(home, [*options, "--peer", left.wait_ready()[4], "--part", "2-6 e"]))
    nodes[-1].wait_ready()
    expect(page.locator(".machine .what", has_text="2-6 e")).to_be_visible(timeout=2500)


def wait_for_text(page: Page, before: str) -> str:
    """What the answer says once it says something else than before."""
    answer = page.locator(".answer").last
    expect(answer).not_to_have_text(before)
    return answer.inner_text()
