"""Ctrl-C and SIGTERM: training is saved first, anything else ends at once; a second signal always ends the process."""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM was received while nothing was unsaved.

    Args:
        signal: Its number.
    """

    def __init__(self, signal):
        super().__init__(signal)
        self.signal = signal


class Interruption:
    """A context in which a first SIGINT or SIGTERM is only noted, in `signal`; within `at_once` it raises Stopped.

    A second signal ends the process at once with exit code 128 + its number; files stay intact, since they are written
    under another name first.
    """

    def __init__(self):
        self.signal, self._raises, self._former, self._former_hook = None, False, {}, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
            self._former_hook, sys.unraisablehook = sys.unraisablehook, self._repeat_if_stopped
        return self

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._former_hook:
            sys.unraisablehook = self._former_hook

    @contextlib.contextmanager
    def at_once(self):
        """Raise Stopped at a signal in this block, or if one was noted before: nothing is unsaved here."""
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
        os.write(2, b"\nsaving after this step; repeat the signal to exit at once\n")

    def _repeat_if_stopped(self, unraisable):
        """Send a signal again that arrived in a destructor, from which Python lets no exception escape."""
        if isinstance(unraisable.exc_value, Stopped):
            self.signal = None
            _thread.start_new_thread(send_soon, (unraisable.exc_value.signal,))
        else:
            self._former_hook(unraisable)


def send_soon(number):
    """Send a signal to the main thread when it has left the destructor that it is in."""
    time.sleep(0.1)
    signal.pthread_kill(threading.main_thread().ident, number)


def leave_at_once():
    """Let SIGINT and SIGTERM end the process silently, as long as it has only imported modules."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))
