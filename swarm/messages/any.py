"""All messages there are: what a frame may hold."""

from __future__ import annotations

from swarm.messages.files import AskFile, AskModel, FileChunk, ModelCard
from swarm.messages.members import (
    AskHold,
    AskPeers,
    Beat,
    BeatAck,
    Goodbye,
    Hello,
    HoldAnswer,
    PeerPage,
    ReleaseHold,
    Welcome,
)
from swarm.messages.sessions import Close, Open, Opened, Refused, Renew, Renewed, Resend
from swarm.messages.steps import Credit, Probe, ProbeAck, StepRefused, Steps, Tokens
from swarm.messages.timings import AskTimings, Timings

AnyMessage = (
    Hello
    | Welcome
    | Beat
    | BeatAck
    | Goodbye
    | AskPeers
    | PeerPage
    | ModelCard
    | AskModel
    | AskFile
    | FileChunk
    | AskHold
    | HoldAnswer
    | ReleaseHold
    | Open
    | Opened
    | Refused
    | Renew
    | Renewed
    | Resend
    | Close
    | Steps
    | Credit
    | Probe
    | ProbeAck
    | StepRefused
    | Tokens
    | AskTimings
    | Timings
)
