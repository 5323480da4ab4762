#!/usr/bin/env python3
"""Counts the instructions of products: per weight byte with one token, per 64 multiplications with 128.

    cargo build --release -p moelten-quant --example instructions
    cargo build --release -p moelten-quant --example instructions --target aarch64-unknown-linux-gnu
    quant/examples/instructions.py PROGRAM TIER...        runs PROGRAM natively, step by step
    quant/examples/instructions.py --qemu PROGRAM TIER... runs it in qemu-aarch64-static, which logs each step

The program runs one product and then three; half the difference is what one takes. Linux only.
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
WEIGHTS = 64 * 1024
MANY = 128
TRACEME, SINGLESTEP = 0, 9


def steps_natively(command):
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        libc.personality(0x0040000)  # the same addresses every time
        libc.ptrace(TRACEME, 0, None, None)
        os.execv(command[0], command)
    os.waitpid(pid, 0)
    step, wait = libc.ptrace, os.waitpid
    count = 0
    while True:
        if step(SINGLESTEP, pid, None, None) != 0:
            sys.exit("this system does not allow single steps")
        _, status = wait(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                sys.exit(f"{command} failed")
            return count
        count += 1


def steps_in_qemu(command):
    qemu = ["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]
    log = ["-singlestep", "-d", "exec,nochain", "-D", "/dev/stderr"]
    run = subprocess.Popen(qemu + log + command, stderr=subprocess.PIPE)
    count = sum(line.startswith(b"Trace") for line in run.stderr)
    if run.wait() != 0:
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
                once, thrice = (steps([program, tier, name, str(tokens), times]) for times in "13")
                each = (thrice - once) / 2
                unit = WEIGHTS * bytes_each if tokens == 1 else WEIGHTS * tokens / 64
                cells.append(f"{each / unit:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


main()
