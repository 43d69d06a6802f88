"""Any JSON value, with the keys of native formats: a hypothesis strategy."""

from hypothesis import strategies as st

KEYS = """text title summary sections content desc answer instruction input output conversations
from value conversation human assistant chat turn_1 Human MOSS plain_text kind target INSTRUCTION
RESPONSE METADATA upvotes q_main option_a std_ans completion tags"""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)
