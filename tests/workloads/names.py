"""Makes blocks in code with unusual names, from unusual places, and says what Python says of each stack."""
import collections
import ctypes
import importlib
import os
import sys
import tempfile
import types
import zipfile

import account
import protocol

FOLDER = tempfile.TemporaryDirectory()
MODULE = """
import account
def made():
    account.sample()
made()
"""


def identifiers():
    """Functions in Latin-1, UCS2 and UCS4, and methods of classes with such names."""
    source = (
        "def größe(f): return f()\n"
        "def 名前(f): return größe(f)\n"
        "def 𠀀𠀁(f): return 名前(f)\n"
        "class Größe:\n"
        "    class 内:\n"
        "        def é(self, f): return 𠀀𠀁(f)\n"
        "Größe.内().é(sample)\n"
    )
    for file in ["plain.py", "größe.py", "名前/路.py", "𠀀.py", "", "with space\tand tab.py"]:
        exec(compile(source, file, "exec"), {"sample": account.sample})


def no_utf_8():
    """Files whose names are no UTF-8, two of which differ in that byte alone."""
    for byte in [b"\xe9", b"\xea"]:
        folder = os.fsdecode(os.path.join(os.fsencode(FOLDER.name), b"caf" + byte))
        os.mkdir(folder)
        name = "in_%s_%x" % ("folder", byte[0])
        with open(os.path.join(folder, name + ".py"), "w") as file:
            file.write(MODULE)
        sys.path.insert(0, folder)
        importlib.import_module(name)


def long_names():
    """A function and a file of 4,096 and more characters."""
    for length in [4096, 4097, 20000]:
        name = "f" * length
        exec(compile("def %s(f):\n    f()\n%s(f)" % (name, name), "d/" * (length // 2), "exec"), {"f": account.sample})
        exec(compile("def %s(f):\n    f()\n%s(f)" % ("ö" * length, "ö" * length), "ö.py", "exec"), {"f": account.sample})


def zipped():
    """A module inside of an archive; and below it Python's own frozen code."""
    archive = os.path.join(FOLDER.name, "pack.zip")
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("inside_of_zip/__init__.py", MODULE)
    sys.path.insert(0, archive)
    importlib.import_module("inside_of_zip")


def renamed():
    """Modules, files and functions that were given other names: code keeps those that it was compiled with."""
    path = os.path.join(FOLDER.name, "first_name.py")
    with open(path, "w") as file:
        file.write(MODULE)
    sys.path.insert(0, FOLDER.name)
    module = importlib.import_module("first_name")
    os.rename(path, os.path.join(FOLDER.name, "second_name.py"))
    module.__name__ = module.__file__ = "second_name"
    sys.modules["second_name"] = sys.modules.pop("first_name")
    module.made.__name__ = module.made.__qualname__ = "unmade"
    module.made()
    if hasattr(module.made.__code__, "replace"):
        code = module.made.__code__.replace(co_name="replaced", co_filename="replaced.py", co_firstlineno=100)
        types.FunctionType(code, module.__dict__)()


def through_c():
    """C that Python calls and that calls Python, and C that makes the block itself: it has no frame."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    @callback
    def compare(_left, _right):
        account.sample()
        return 0
    ctypes.CDLL(None).qsort(ctypes.create_string_buffer(16), 2, 8, compare)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
        ("PyBytes_FromStringAndSize", ctypes.pythonapi))
    line, block = sys._getframe().f_lineno, make(None, 1000)
    account.KEPT.append(block)
    account.note(sys._getframe(), line)
    class_of_c = collections.defaultdict(account.sample)
    class_of_c["missing"]


CASES = [identifiers, no_utf_8, long_names, zipped, renamed, through_c]


def work():
    for case in CASES:
        case()
    FOLDER.cleanup()
    return {"stacks": account.stacks()}


protocol.run(work)
