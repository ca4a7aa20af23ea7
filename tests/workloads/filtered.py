"""The work of busy.py under a seccomp filter that kills on the system call by which some kernels implement return
probes (335 on x86-64), as filters do that list what is permitted."""
import ctypes
import runpy
import struct

import protocol

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
URETPROBE = 335

instructions = b"".join(struct.pack("<HBBI", *instruction) for instruction in [
    (LOAD_WORD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 1, URETPROBE),
    (RETURN, 0, 0, KILL_PROCESS),
    (RETURN, 0, 0, ALLOW),
])
code = ctypes.create_string_buffer(instructions)
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
    if libc.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
runpy.run_path(protocol.__file__.replace("protocol", "busy"), run_name="__main__")
