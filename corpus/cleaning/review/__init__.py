"""Review of a cleaning: a random sample of what it did, read and judged by people.

sample.py      documents that each operator changed or dropped, and kept ones, taken at random
word_diff.py   two texts as pieces that are equal, taken out, or put in
markup.py      a document of the sample as HTML, changes marked
page.py        the sample as one HTML file that needs nothing else
verdicts.py    judgements, one JSON line each; shares with 95 % intervals
server.py      the same documents in the browser, where they are judged
replay.py      today's recipes over what was judged
"""
