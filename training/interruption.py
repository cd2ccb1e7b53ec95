"""Ctrl-C and SIGTERM: the run saves at the next step and leaves; a second Ctrl-C leaves at once."""

import os
import signal
import threading


class Interruption:
    """While it is entered, a first SIGINT or SIGTERM is only noted, in `signal`.

    A second one ends the process at once with exit code 128 + its number; files stay whole, since they are written
    under another name first.
    """

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self.former = {}
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            self.former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\nsaving after this step; once more to leave at once\n")
