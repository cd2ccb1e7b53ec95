"""Processes forked off one that has imported TensorFlow, which takes seconds, but not used it: no fork survives that.

All tests of a pytest process share that one.
"""

import multiprocessing
import os
import signal
import time
from multiprocessing.reduction import DupFd

CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """What subprocess.Popen gives, of a process that calls a function.

    Args:
        function: A function of a module, whose result is the exit code.
        arguments: Its arguments.
        env: The environment.
        stdout: The descriptor of its output; by default this process's.
        stderr: That of its complaints.
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
    time.sleep(1)  # another process takes as long to take TensorFlow apart; until then its peers get their last sum
    raise SystemExit(code)
