"""What is done to the servers and to the file while clients ask. One server suffers at a time, so
that two of three are always well: then no honest client may notice."""

import asyncio
import os
import random
import signal
import subprocess
import sys


class Server:
    """A process that can be killed, stopped and told to reset connections."""

    def __init__(self, port, directory):
        self.port = port
        self.journal = directory / f"journal-{port}"
        self.process = None

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, os.path.join(os.path.dirname(__file__), "origin.py"),
            str(self.port), str(self.journal), stdin=asyncio.subprocess.PIPE,
        )
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.05)

    def tell(self, command):
        self.process.stdin.write(command + b"\n")

    async def killed(self, pause):
        self.process.kill()
        await self.process.wait()
        await asyncio.sleep(pause)
        await self.start()

    async def stopped(self, pause):
        """With the short queue of its socket this is a black hole after the first few."""
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(pause)
        self.process.send_signal(signal.SIGCONT)

    async def moody(self, pause):
        self.tell(b"moody")
        await asyncio.sleep(pause)
        self.tell(b"well")

    async def blackholed(self, pause):
        """Every packet to and from it vanishes, those of open connections too. Needs root and iptables."""
        rules = [["INPUT", "-i", "lo", "-p", "tcp", way, str(self.port), "-j", "DROP"] for way in ("--dport", "--sport")]
        try:
            for rule in rules:
                subprocess.run(["iptables", "-w", "-A", *rule], check=True)
            await asyncio.sleep(pause)
        finally:
            for rule in rules:
                subprocess.run(["iptables", "-w", "-D", *rule], check=False)

    async def end(self):
        if self.process and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            await self.process.wait()


async def trouble(stop, servers, tally, kinds, well):
    """One server after another suffers for a while, then all are well for `well` seconds."""
    while not stop.is_set():
        server, kind = random.choice(servers), random.choice(kinds)
        tally[f"server {kind}"] += 1
        await getattr(server, kind)(random.uniform(0.2, 2.5))
        await asyncio.sleep(random.uniform(0.5, 1.5) * well)


async def upgrade(stop, proxy, tally, period):
    """A new process in the place of the old one, now and then one that is no good."""
    number = 0
    while not stop.is_set():
        number += 1
        await asyncio.sleep(period)
        done = await asyncio.to_thread(proxy.upgrade, number % 4 == 0)
        tally["upgraded" if done else "upgrade refused"] += 1


async def rewrite(stop, proxy, tally, period):
    """A new weight or a broken file every `period` seconds, in every way that editors write."""
    number = 0
    while not stop.is_set():
        number += 1
        await asyncio.sleep(period)
        if number % 10 == 0:
            text, kind = proxy.text([1, 1, 1])[: random.randint(0, 300)] + "\n[[", "file broken"
        else:
            text, kind = proxy.text([random.randint(1, 9) for _ in range(3)]), "file rewritten"
        tally[kind] += 1
        if random.random() < 0.5:
            proxy.file.write_text(text)
        else:
            aside = proxy.file.with_suffix(".new")
            aside.write_text(text)
            aside.rename(proxy.file)
