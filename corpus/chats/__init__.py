"""Chat data: from the native files of SFT and preference sets to messages and mixtures.

rows.py       native files, row by row          (json, jsonl, gz, parquet, LogiQA's text)
  └▶ formats.py   one function per native shape     choices.py: multiple-choice questions
       └▶ messages.py   conversations and pairs, checked
recipes.py    data_recipes/{sft,preferences,mixtures}
reading.py    a set's folder as conversations or pairs, and the rows that are skipped
encoded_sets.py  a set read, screened and encoded, once for all mixtures
mixing.py     exact draws      sft_mixture.py: a mixture of encoded sets
language.py   the language of a conversation      identity.py: the model's name in it
contamination.py  benchmark questions in it
preferences.py  preference sets ─▶ every usable pair
"""

from corpus.chats.contamination import MATCHES_FILE, ContaminationFilter
from corpus.chats.identity import Identity
from corpus.chats.messages import Chat, Pair
from corpus.chats.mixing import MixtureFiles, MixtureRow
from corpus.chats.preferences import PreferenceSet, gather_preferences
from corpus.chats.reading import Sample, check_set, read_samples
from corpus.chats.recipes import Mixture, MixtureSet, Pool, load_mixture, load_set

__all__ = [
    "MATCHES_FILE",
    "Chat",
    "ContaminationFilter",
    "Identity",
    "Mixture",
    "MixtureFiles",
    "MixtureRow",
    "MixtureSet",
    "Pair",
    "Pool",
    "PreferenceSet",
    "Sample",
    "check_set",
    "gather_preferences",
    "load_mixture",
    "load_set",
    "read_samples",
]
