"""Chat data: from the native files of SFT and preference sets to messages.

rows.py       native files, row by row          (json, jsonl, gz, parquet, LogiQA's text)
  └▶ formats.py   one function per native shape     choices.py: multiple-choice questions
       └▶ messages.py   [{role, content}], and what makes a conversation usable
recipes.py    data_recipes/{sft,preferences,mixtures}
reading.py    a set's folder as conversations or pairs, and what was set aside
"""

from corpus.chats.messages import Chat, Language, Message, Pair, Unusable
from corpus.chats.mixing import MixtureRow, build_mixture
from corpus.chats.reading import ReadChat, ReadPair, SetAside, read_chats, read_pairs
from corpus.chats.recipes import ChatSetRecipe, Mixture, MixtureSet, Pool, load_mixture, load_set
from corpus.chats.rows import matching_files

__all__ = [
    "Chat",
    "ChatSetRecipe",
    "Language",
    "Message",
    "Mixture",
    "MixtureRow",
    "MixtureSet",
    "Pair",
    "Pool",
    "ReadChat",
    "ReadPair",
    "SetAside",
    "Unusable",
    "build_mixture",
    "load_mixture",
    "load_set",
    "matching_files",
    "read_chats",
    "read_pairs",
]
