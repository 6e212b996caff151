"""A foreign client of Brood's RPC: what it knows, it knows from schema/brood.capnp.

    brood_client.py SCHEMA SOCKET version
    brood_client.py SCHEMA SOCKET life BUNDLE ID       every call of a container's life, one after the other
    brood_client.py SCHEMA SOCKET pipelined BUNDLE ID  create, start and wait without waiting for answers
    brood_client.py SCHEMA SOCKET run BUNDLE           one shot, with captured output
    brood_client.py SCHEMA SOCKET failures BUNDLE ID   what cannot be done, and how that is said
    brood_client.py SCHEMA SOCKET events ID            replay of the events of one container
    brood_client.py SCHEMA SOCKET exec BUNDLE ID       every call of an exec's life, and what cannot be done
    brood_client.py SCHEMA SOCKET exec_pipelined ID    get, exec and wait without waiting for answers
    brood_client.py SCHEMA SOCKET exec_sync BUNDLE ID  execs with captured output: whole, cut off, out of time

Each prints one JSON object. Used by tests/tests/pycapnp.rs, and good to copy from.
"""

import asyncio
import json
import signal
import sys

import capnp

capnp.remove_import_hook()


def told(outcome):
    """An outcome as plain data: the name of what came, or kind and message of the failure."""
    which = outcome.which()
    if which != "failure":
        return which
    return {"kind": str(outcome.failure.kind), "message": outcome.failure.message,
            "exitStatus": outcome.failure.exitStatus}


def new(bundle, name):
    return {"id": name, "source": {"bundle": bundle}, "stdio": {"null": None}}


async def version(brood, _schema):
    reply = (await brood.version(request={})).reply
    return {"version": reply.version, "pid": reply.pid, "reactor": reply.reactor, "root": reply.root}


async def life(brood, _schema, bundle, name):
    labels = [{"key": "colour", "value": "brown"}]
    created = await brood.create(request={**new(bundle, name), "labels": labels})
    container = created.container

    async def status():
        return str((await container.state(request={})).outcome.state.status)

    steps = [told(created.outcome), await status()]
    steps.append(told((await container.start(request={})).outcome))
    steps.append(await status())

    listed = (await brood.list(request={"labels": labels})).reply.containers
    others = (await brood.list(request={"labels": [{"key": "colour", "value": "blue"}]})).reply.containers
    found = {"ids": [one.id for one in listed], "processes": [one.name for one in listed[0].processes],
             "labels": {label.key: label.value for label in listed[0].labels}, "others": len(others)}

    # A second handle on the same container.
    again = (await brood.get(request={"id": name})).container
    waiting = again.wait(request={})
    steps.append(told((await container.kill(request={"signal": int(signal.SIGKILL)})).outcome))
    end = (await waiting).outcome.exit
    steps.append(await status())
    steps.append(told((await container.delete(request={})).outcome))
    return {"steps": steps, "found": found, "status": end.status, "signal": end.signal, "time": end.time}


async def pipelined(brood, _schema, bundle, name):
    created = brood.create(request=new(bundle, name))
    started = created.container.start(request={})
    ended = created.container.wait(request={})
    end = await ended
    return {"create": told((await created).outcome), "start": told((await started).outcome),
            "status": end.outcome.exit.status}


async def run(brood, _schema, bundle):
    outcome = (await brood.run(request={"create": {"source": {"bundle": bundle}}})).outcome
    if outcome.which() == "failure":
        return {"failure": told(outcome)}
    done = outcome.done
    return {"status": done.exit.status, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


async def failures(brood, _schema, bundle, name):
    missing = brood.get(request={"id": name})
    # The handle of a failed `get` answers with the failure too.
    started = await missing.container.start(request={})
    bad_name = await brood.create(request=new(bundle, "../" + name))
    no_bundle = await brood.create(request=new(bundle + "/missing", name))
    return {"missing": told((await missing).outcome), "started": told(started.outcome),
            "badName": told(bad_name.outcome), "noBundle": told(no_bundle.outcome)}


async def running(brood, bundle, name):
    return (await brood.create(request={**new(bundle, name), "start": True})).container


def shell(script, **fields):
    return {"args": ["sh", "-c", script], "stdio": {"null": None}, **fields}


async def exec(brood, _schema, bundle, name):
    container = await running(brood, bundle, name)
    made = await container.exec(request=shell("exit 5", id="two-step", uid={"value": 3}))
    process = made.process

    async def status():
        return str((await process.state(request={})).outcome.state.status)

    steps = [told(made.outcome), await status()]
    steps.append(told((await process.start(request={})).outcome))
    steps.append((await process.wait(request={})).outcome.exit.status)
    steps.append(await status())

    again = await container.exec(request=shell("true", id="two-step", start=True))
    # The handle of a failed exec answers with the failure too.
    refused = {"taken": told(again.outcome), "waited": told((await again.process.wait(request={})).outcome)}
    missing = container.process(request={"name": "nobody"})
    refused["missing"] = told((await missing).outcome)
    refused["all"] = told((await process.kill(request={"all": True})).outcome)
    refused["resize"] = told((await process.resize(request={"rows": 24, "columns": 80})).outcome)
    refused["closeStdin"] = told((await process.closeStdin(request={})).outcome)
    steps.append(told((await process.delete(request={})).outcome))
    refused["gone"] = told((await process.start(request={})).outcome)

    # A whole OCI process object instead of changes, and a name that the daemon makes up.
    whole = {"user": {"uid": 4, "gid": 4}, "args": ["sh", "-c", "exit $(id -u)"], "cwd": "/", "env": ["PATH=/bin"]}
    given = container.exec(request={"processJson": json.dumps(whole).encode(), "stdio": {"null": None}, "start": True})
    status_of_whole = (await given.process.wait(request={})).outcome.exit.status
    names = [one.name for one in (await container.state(request={})).outcome.state.processes]
    await container.delete(request={"force": True})
    return {"steps": steps, "refused": refused, "whole": status_of_whole, "names": names}


async def exec_pipelined(brood, _schema, name):
    container = brood.get(request={"id": name}).container
    made = container.exec(request=shell("exit 6", id="quick", start=True))
    end = await made.process.wait(request={})
    return {"exec": told((await made).outcome), "status": end.outcome.exit.status}


async def exec_sync(brood, _schema, bundle, name):
    container = await running(brood, bundle, name)

    async def captured(script, **settings):
        outcome = (await container.execSync(request={"exec": shell(script), **settings})).outcome
        if outcome.which() == "failure":
            return {"failure": told(outcome)}
        done = outcome.done
        return {"status": done.exit.status, "stdout": done.stdout.decode(), "stderr": done.stderr.decode(),
                "cut": [done.stdoutTruncated, done.stderrTruncated], "late": done.timedOut}

    whole = await captured("echo out; echo err >&2; exit 7")
    cut = await captured("yes | head -c 100000; echo err >&2", outputLimit=10)
    late = await captured("echo begun; exec sleep 1000", timeoutMs=100)
    missing = (await container.execSync(request={"exec": {"args": ["no-such-program"]}})).outcome
    too_much = await captured("true", outputLimit=1 << 30)
    left = [one.name for one in (await container.state(request={})).outcome.state.processes]
    await container.delete(request={"force": True})
    return {"whole": whole, "cut": cut, "late": late, "missing": told(missing), "tooMuch": too_much, "left": left}


async def events(brood, schema, name):
    told_events = []
    finished = asyncio.get_running_loop().create_future()

    class Sink(schema.EventSink.Server):
        async def push(self, batch, **_):
            for event in batch.events:
                told_events.append({"seq": event.seq, "type": event.type, "id": event.id,
                                    "status": event.exit.status})

        async def done(self, **_):
            finished.set_result(None)

    subscription = await brood.events(request={"since": 1, "id": name}, sink=Sink())
    await finished
    del subscription
    return {"events": told_events}


async def main():
    schema_path, socket, command, *arguments = sys.argv[1:]
    schema = capnp.load(schema_path)
    stream = await capnp.AsyncIoStream.create_unix_connection(socket)
    brood = capnp.TwoPartyClient(stream).bootstrap().cast_as(schema.Brood)
    functions = (version, life, pipelined, run, failures, events, exec, exec_pipelined, exec_sync)
    commands = {function.__name__: function for function in functions}
    print(json.dumps(await commands[command](brood, schema, *arguments)))


if __name__ == "__main__":
    asyncio.run(capnp.run(main()))
