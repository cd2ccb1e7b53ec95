"""The profiler: record a window of steps, and list the operations that took most time as text.

TensorBoard's profile plugin loads its charts from the internet; the text works offline.
"""

import collections
import math

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from training.dashboards.log import Board, writing
from training.errors import UserError


class Profile(Board):
    """Profile a window of steps of the first epoch that is trained.

    Args:
        log: The log.
        steps: Number of steps to record; 0 for none.
        first: Number of steps to skip before, since the first ones trace and allocate; fewer in a short epoch.
    """

    needs = None

    def __init__(self, log, steps=0, first=10):
        super().__init__(log)
        self.steps, self.first, self.recording, self.marker = steps, first, False, None

    def on_epoch_begin(self, epoch, logs=None):
        self.passed = 0  # steps of this epoch, of a resumed run since it was resumed

    def on_train_batch_begin(self, batch, logs=None):
        left = (self.params.get("steps") or math.inf) - batch
        if self.steps and not self.recording and (self.passed >= self.first or left <= self.steps):
            if left < self.steps:
                print(f"The profiler records {left} steps, not {self.steps}, because the epoch ends after them.")
            with writing(self.log.folder):
                tf.profiler.experimental.start(str(self.log.folder / "train"))
            self.recording = True
        if self.recording:
            # Without _r the profiler's overview page reports that there are no step markers.
            self.marker = tf.profiler.experimental.Trace("train", step_num=batch, _r=1)
            self.marker.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        if self.recording:
            self.marker.__exit__(None, None, None)
            self.steps -= 1
            if not self.steps:
                self.stop()
        self.passed += 1

    def on_epoch_end(self, epoch, logs=None):
        if self.recording:  # the epoch was shorter than the window
            self.stop()

    def stop(self):
        self.recording, self.steps = False, 0
        with writing(self.log.folder):
            tf.profiler.experimental.stop()


def top_operations(folder, count=20):
    """Return the operations that took most time in the latest profile of a run.

    On a GPU these are its kernels; on a CPU, TensorFlow's operations by type, summed over all threads.

    Args:
        folder: The run folder.
        count: Number of operations to return.

    Returns:
        A list of (name, calls, milliseconds, share of the time of all operations).

    Raises:
        UserError: The run has no profile.
    """
    files = sorted(folder.glob("**/plugins/profile/*/*.xplane.pb"))
    if not files:
        raise UserError(f"{folder} has no profile. Record one: `python -m training fit ... --profile_steps 10`.")
    space = xplane_pb2.XSpace()
    space.ParseFromString(files[-1].read_bytes())
    on_device = [plane for plane in space.planes if plane.name.startswith("/device:GPU")]
    calls, picoseconds = collections.Counter(), collections.Counter()
    for plane in on_device or space.planes:
        for line in plane.lines:
            if on_device and not line.name.startswith("Stream"):
                continue  # names and steps, which count the same time again
            for event in line.events:
                metadata = plane.event_metadata[event.metadata_id]
                # Operations on the CPU are called "name in the graph:type".
                name = metadata.name if on_device else metadata.name.partition(":")[2]
                if name and (on_device or metadata.display_name == name):
                    calls[name] += 1
                    picoseconds[name] += event.duration_ps
    total = sum(picoseconds.values()) or 1
    return [(name, calls[name], time / 1e9, time / total) for name, time in picoseconds.most_common(count)]


def table(operations):
    """Format the result of `top_operations` as a table."""
    lines = [f"{'operation':<48} {'calls':>7} {'ms':>10} {'share':>7}"]
    return "\n".join(
        lines + [f"{name[:48]:<48} {calls:7d} {ms:10.2f} {share:7.1%}" for name, calls, ms, share in operations]
    )
