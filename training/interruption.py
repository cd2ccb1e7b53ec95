"""Ctrl-C and SIGTERM: what is trained is saved first, everything else ends at once; a second signal always does."""

import contextlib
import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came where nothing is unsaved.

    Args:
        signal: Its number.
    """

    def __init__(self, signal):
        super().__init__(signal)
        self.signal = signal


class Interruption:
    """While it is entered, a first SIGINT or SIGTERM is only noted, in `signal`; within `at_once` it raises Stopped.

    A second one ends the process at once with exit code 128 + its number; files stay whole, since they are written
    under another name first.
    """

    def __init__(self):
        self.signal, self._raises, self._former = None, False, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self):
        """Raise Stopped at a signal in this block, or if one was noted before it: nothing is unsaved here."""
        self._raises = True
        try:
            if self.signal is not None:
                raise Stopped(self.signal)
            yield
        finally:
            self._raises = False

    def _note(self, number, frame):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if self._raises:
            raise Stopped(number)
        os.write(2, b"\nsaving after this step; once more to leave at once\n")


def leave_at_once():
    """Let SIGINT and SIGTERM end the process without a word, for as long as nothing but imports has happened."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))
