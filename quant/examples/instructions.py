#!/usr/bin/env python3
"""Counts the instructions of products: per byte of weights with one token, per 64 multiplications with 128.

    cargo build --release -p moelten-quant --example instructions
    cargo build --release -p moelten-quant --example instructions --target aarch64-unknown-linux-gnu
    quant/examples/instructions.py PROGRAM TIER...        runs PROGRAM natively, step by step: x86-64
    quant/examples/instructions.py --qemu PROGRAM TIER... runs it in qemu-aarch64-static, which logs each step

The product is what the program does between two calls of getppid. Linux only.
"""

import ctypes
import os
import subprocess
import sys

BYTES = {  # of a weight
    "Q4_0": 18 / 32, "Q4_1": 20 / 32, "Q5_0": 22 / 32, "Q5_1": 24 / 32, "Q8_0": 34 / 32,
    "Q2_K": 84 / 256, "Q3_K": 110 / 256, "Q4_K": 144 / 256, "Q5_K": 176 / 256, "Q6_K": 210 / 256,
    "IQ4_NL": 18 / 32, "IQ4_XS": 136 / 256, "MXFP4": 17 / 32,
}
WEIGHTS = 32 * 512
MANY = 128

# ptrace and the x86-64 system calls, from the headers of Linux.
TRACEME, PEEKUSER, SINGLESTEP, SYSCALL = 0, 3, 9, 24
ORIG_RAX, GETPPID = 15 * 8, 110


def steps_natively(command):
    libc = ctypes.CDLL(None, use_errno=True)
    ptrace = libc.ptrace
    ptrace.restype = ctypes.c_long
    pid = os.fork()
    if pid == 0:
        ptrace(TRACEME, 0, None, None)
        os.execv(command[0], command)
    os.waitpid(pid, 0)

    def go(how):
        if ptrace(how, pid, None, None) != 0:
            sys.exit("this system does not allow single steps")
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            sys.exit(f"{command} ended too early")

    def at_mark():
        return ptrace(PEEKUSER, pid, ctypes.c_void_p(ORIG_RAX), None) == GETPPID

    go(SYSCALL)
    while not at_mark():
        go(SYSCALL)
    go(SYSCALL)
    count = 0
    go(SINGLESTEP)
    while not at_mark():
        count += 1
        go(SINGLESTEP)
    ptrace(7, pid, None, None)  # continue
    os.waitpid(pid, 0)
    return count


def steps_in_qemu(command):
    qemu = ["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]
    log = ["-singlestep", "-strace", "-d", "exec,nochain"]
    run = subprocess.Popen(qemu + log + command, stderr=subprocess.PIPE)
    count, marks = 0, 0
    for line in run.stderr:
        if b"getppid" in line:
            marks += 1
        elif marks == 1 and line.startswith(b"Trace"):
            count += 1
    if run.wait() != 0 or marks != 2:
        sys.exit(f"{command} failed")
    return count


def main():
    args = sys.argv[1:]
    steps = steps_natively
    if args and args[0] == "--qemu":
        steps, args = steps_in_qemu, args[1:]
    if len(args) < 2:
        sys.exit(__doc__)
    program, tiers = args[0], args[1:]
    print("| format | " + " | ".join(f"`{tier}`, 1 token | {MANY} tokens" for tier in tiers) + " |")
    for name, bytes_each in BYTES.items():
        cells = []
        for tier in tiers:
            for tokens in (1, MANY):
                unit = WEIGHTS * bytes_each if tokens == 1 else WEIGHTS * tokens / 64
                cells.append(f"{steps([program, tier, name, str(tokens)]) / unit:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


main()
