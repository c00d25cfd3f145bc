"""Servers that are busy, broken, silent or hostile: what is asked again, what is given up, and what never leaks."""

import dataclasses
import email.utils
import socket
import threading
import time

import pytest

from panda_jax.captioning.endpoint import Endpoint, NoCaption, Settings, Stopped
from panda_jax.errors import InputError
from tests.captioning.stub import answer, refusal, serving

KEY = "sk-very-secret-0123456789"
ASKED = [{"role": "user", "content": "- a beach"}]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(stub, **settings) -> str:
  return Endpoint(Settings(stub.url, "llama", **{"first_pause": 0.01, "timeout": 5.0} | settings)).ask(ASKED, "beach")


def in_turn(*replies):
  """Answers one after the other, the last one for ever."""
  return lambda number, request: replies[min(number, len(replies) - 1)]


def test_a_sentence_comes_back_and_the_request_is_what_servers_expect():
  with serving(in_turn(answer("A beach."))) as stub:
    assert ask(stub) == "A beach."
  request, = stub.requests
  assert request["model"] == "llama" and request["messages"] == ASKED and request["temperature"] == 0
  assert stub.paths == ["/v1/chat/completions"] and stub.keys == [None]


def test_the_full_address_will_do_too_and_the_body_can_be_changed():
  with serving(in_turn(answer("ok"))) as stub:
    settings = Settings(stub.url + "/chat/completions/", "m", request={"max_tokens": None, "max_completion_tokens": 9})
    assert Endpoint(settings).ask(ASKED, "x") == "ok"
  assert stub.paths == ["/v1/chat/completions"]
  assert "max_tokens" not in stub.requests[0] and stub.requests[0]["max_completion_tokens"] == 9


def test_unicode_survives():
  with serving(in_turn(answer("Ein Café in 東京 🌸"))) as stub:
    assert ask(stub) == "Ein Café in 東京 🌸"


@pytest.mark.parametrize("trouble", [
  refusal(500), refusal(503), refusal(429), (200, {}, b"<html>sorry</html>"), (200, {}, b"{}"),
  (200, {}, b'{"choices": []}'), (200, {}, b'{"choices": [{"message": null}]}'), (200, {}, b"\xff\xfe\x00"),
  (200, {}, b""), (200, {}, b"[" * 100_000),
  answer("  "), answer("word " * 1000)])
def test_what_may_pass_is_asked_again(trouble):
  with serving(in_turn(trouble, trouble, answer("A beach."))) as stub:
    assert ask(stub) == "A beach."
  assert len(stub.requests) == 3


@pytest.mark.parametrize("trouble, why", [
  (refusal(500, "out of memory"), "out of memory"), ((200, {}, b"{"), "not what a chat-completions"),
  (answer(""), "empty")])
def test_what_does_not_pass_is_given_up_with_the_reason(trouble, why):
  with serving(in_turn(trouble)) as stub, pytest.raises(NoCaption, match=f"{why}.*3 tries"):
    ask(stub, tries=3)
  assert len(stub.requests) == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_repeated(status):
  with serving(in_turn(refusal(status, "content filter"))) as stub, pytest.raises(NoCaption, match="content filter"):
    ask(stub)
  assert len(stub.requests) == 1


@pytest.mark.parametrize("status, mend", [
  (401, "--api-key-env"), (403, "--api-key-env"), (404, "--model-name"), (405, "--fuse"), (307, "give that address")])
def test_what_is_wrong_for_all_stops_at_once(status, mend):
  with serving(in_turn(refusal(status, Location="http://127.0.0.1:1/elsewhere"))) as stub:
    with pytest.raises(InputError, match=mend):
      ask(stub)
  assert len(stub.requests) == 1


@pytest.mark.parametrize("spelled", ["1", "date"])
def test_retry_after_is_heeded(spelled):
  wait = email.utils.formatdate(time.time() + 2, usegmt=True) if spelled == "date" else spelled
  with serving(in_turn(refusal(429, Retry_After=wait), answer("A beach."))) as stub:
    assert ask(stub) == "A beach."
  assert 0.9 < stub.times[1] - stub.times[0] < 3


def test_retry_after_holds_the_other_threads_too():
  with serving(in_turn(refusal(503, Retry_After="1"), answer("A beach."))) as stub:
    endpoint = Endpoint(Settings(stub.url, "m", first_pause=0.01))
    first = threading.Thread(target=endpoint.ask, args=(ASKED, "a"))
    first.start()
    time.sleep(0.3)
    endpoint.ask(ASKED, "b")
    first.join()
  assert len(stub.times) == 3 and min(stub.times[1:]) - stub.times[0] > 0.9


def test_a_server_that_wants_an_hour_is_left_with_a_sentence():
  with serving(in_turn(refusal(429, Retry_After="3600"))) as stub:
    with pytest.raises(InputError, match="3600 s.*same command"):
      ask(stub)


@pytest.mark.parametrize("retry_after", ["soon", "-5", "nan", ""])
def test_a_senseless_retry_after_is_no_harm(retry_after):
  with serving(in_turn(refusal(429, Retry_After=retry_after), answer("A beach."))) as stub:
    assert ask(stub) == "A beach."


def test_a_server_that_hangs_is_left_and_asked_again():
  def reply(number, request):
    if number == 0:
      time.sleep(1)
    return answer("A beach.")

  with serving(reply) as stub:
    begin = time.monotonic()
    assert ask(stub, timeout=0.3) == "A beach."
    assert time.monotonic() - begin < 0.9


def test_an_answer_that_trickles_cannot_outlast_the_time_out():
  """Every byte comes in time, and the whole never."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    def trickle():
      connection, _ = server.accept()
      with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
          for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)
        except OSError:                               # the other side has left
          pass

    threading.Thread(target=trickle, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(NoCaption, match="within 0.4 s"):
      Endpoint(Settings(f"http://127.0.0.1:{server.getsockname()[1]}", "m", timeout=0.4, tries=1)).ask(ASKED, "x")
    assert time.monotonic() - begin < 1.5


def test_nobody_there():
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
  with pytest.raises(NoCaption, match=r"cannot be reached \(connection refused\) \(2 tries\)"):
    Endpoint(Settings(f"http://127.0.0.1:{port}/v1", "m", tries=2, first_pause=0.01)).ask(ASKED, "x")


def test_the_pauses_grow_and_come_from_the_seed():
  def waits(seed):
    with serving(in_turn(refusal(500))) as stub, pytest.raises(NoCaption):
      ask(stub, tries=4, first_pause=0.1, seed=seed)
    return [later - earlier for earlier, later in zip(stub.times, stub.times[1:])]

  first, again, other = waits(0), waits(0), waits(1)
  assert 0.05 <= first[0] < 0.13 and 0.2 <= first[2] < 0.45
  assert max(abs(a - b) for a, b in zip(first, again)) < 0.04 < max(abs(a - b) for a, b in zip(first, other))


def test_no_more_requests_per_minute_than_allowed():
  with serving(in_turn(answer("ok"))) as stub:
    endpoint = Endpoint(Settings(stub.url, "m", requests_per_minute=600))
    threads = [threading.Thread(target=endpoint.ask, args=(ASKED, str(n))) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
  assert len(stub.times) == 6 and max(stub.times) - min(stub.times) >= 0.45


def test_waiting_ends_when_work_is_to_stop():
  stop = threading.Event()
  with serving(in_turn(refusal(429, Retry_After="100"))) as stub:
    threading.Timer(0.3, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(Stopped):
      Endpoint(Settings(stub.url, "m"), stop).ask(ASKED, "x")
    assert time.monotonic() - begin < 3


# The key


def test_the_key_travels_in_its_header_and_nowhere_else(monkeypatch):
  monkeypatch.setenv("MY_KEY", KEY)
  with serving(in_turn(answer("ok"))) as stub:
    settings = Settings(stub.url, "m", key_variable="MY_KEY")
    endpoint = Endpoint(settings)
    assert endpoint.ask(ASKED, "x") == "ok"
  assert stub.keys == [f"Bearer {KEY}"] and KEY not in str(stub.requests)
  assert KEY not in repr((settings, settings.recipe(), endpoint, endpoint.__dict__, dataclasses.asdict(settings)))


@pytest.mark.parametrize("status, error", [(401, InputError), (400, NoCaption), (500, NoCaption), (302, InputError)])
def test_a_server_that_repeats_the_key_does_not_get_it_printed(monkeypatch, status, error):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with serving(in_turn(refusal(status, f"Incorrect API key {KEY}", Location=f"http://x/?key={KEY}"))) as stub:
    with pytest.raises(error) as caught:
      ask(stub, tries=1)
  link = caught.value
  while link is not None:
    assert KEY not in str(link) and KEY not in repr(link)
    link = link.__cause__ or link.__context__


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_printing_it(monkeypatch, key):
  monkeypatch.setenv("OPENAI_API_KEY", key)
  with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
    Endpoint(Settings("http://127.0.0.1:1", "m"))
  assert key not in str(caught.value)


def test_a_stranger_s_password_from_netrc_is_not_sent(monkeypatch, tmp_path):
  (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
  monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
  with serving(in_turn(answer("ok"))) as stub:
    ask(stub)
  assert stub.keys == [None]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "", "http:///v1", "gs://bucket"])
def test_an_address_is_needed(url):
  with pytest.raises(InputError, match="base address"):
    Settings(url, "m")


@pytest.mark.parametrize("url", ["https://me:hidden@host/v1", "https://host/v1?key=hidden", "https://host/v1#hidden"])
def test_secrets_in_the_address_are_refused_without_printing_them(url):
  with pytest.raises(InputError, match="--api-key-env") as caught:
    Settings(url, "m")
  assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"requests_per_minute": -1}, {"tries": 0}, {"concurrency": 0},
                                 {"timeout": float("nan")}])
def test_senseless_numbers_are_refused(bad):
  with pytest.raises(InputError, match="must be"):
    Settings("http://h", "m", **bad)


def test_a_key_in_clear_is_noticed(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  assert Settings("http://server.lan:8000/v1", "m").sends_key_in_clear()
  assert not Settings("https://server.lan/v1", "m").sends_key_in_clear()
  assert not Settings("http://localhost:8000/v1", "m").sends_key_in_clear()
