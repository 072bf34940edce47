"""A service's clock that jumps. A process's clock cannot be set from outside, so the service runs with a library that
adds the number in a file to what the system says.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from lab.chaos.run import Unable

_BYTES = 20
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void) {
  static int file = -1;
  char text[BYTES + 1] = "";
  if (file < 0) file = open(PATH, O_RDONLY | O_CLOEXEC);
  return pread(file, text, BYTES, 0) > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec* at) {
  static int (*system)(clockid_t, struct timespec*);
  if (!system) *(void**)&system = dlsym(RTLD_NEXT, "clock_gettime");
  int result = system(clock, at);
  if (!result && clock == CLOCK_REALTIME) at->tv_sec += shift();
  return result;
}

time_t time(time_t* at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


class ShiftedClock:
    """The clock of a process that runs with `library` preloaded. Raises Unable without a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._path, self.library, source = folder / "seconds", folder / "clock.so", folder / "clock.c"
        self._path.touch()
        self.jump(0.0)
        source.write_text(_SOURCE)
        compiler = [found] if (found := shutil.which("cc")) else [sys.executable, "-m", "ziglang", "cc"]
        options = ["-shared", "-fPIC", f"-DBYTES={_BYTES}", f'-DPATH="{self._path}"']
        done = subprocess.run([*compiler, *options, str(source), "-o", str(self.library), "-ldl"], capture_output=True)
        if done.returncode:
            raise Unable(f"no clock can be shifted here, for lack of a C compiler: {done.stderr.decode()[-300:]}")

    def jump(self, seconds: float) -> None:
        """Shift it. The file is overwritten in place, because readers have it open."""
        with self._path.open("r+b") as file:
            file.write(f"{seconds:<{_BYTES}.0f}".encode())
