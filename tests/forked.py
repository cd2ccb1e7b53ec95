"""Processes forked from a server that has imported TensorFlow, which takes seconds.

The server must not use TensorFlow, since a fork would not survive that. All tests of a pytest process share it.
"""

import multiprocessing
import os
import signal
import time
from multiprocessing.reduction import DupFd

CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """A process that calls a function, with the interface of subprocess.Popen.

    Args:
        function: A function of a module that returns the exit code.
        arguments: Arguments of the function.
        env: The environment variables.
        stdout: File descriptor of the standard output; by default that of this process.
        stderr: File descriptor of the standard error.
    """

    def __init__(self, function, *arguments, env=os.environ, stdout=1, stderr=2):
        CONTEXT.set_forkserver_preload(["training.run"])
        streams = DupFd(stdout), DupFd(stderr)
        self.process = CONTEXT.Process(target=call, args=(function, arguments, dict(env), *streams))
        self.process.start()
        self.pid = self.process.pid

    returncode = property(lambda self: self.process.exitcode)

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def call(function, arguments, environment, *streams):
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.detach(), number)
    code = function(*arguments)
    time.sleep(1)  # other processes take as long to unload TensorFlow; until then peers finish their last all-reduce
    raise SystemExit(code)
