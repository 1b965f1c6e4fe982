"""The words of a caption as COCO's caption evaluation counts them, without Java.

That evaluation sends every caption through Stanford's PTBTokenizer (CoreNLP 3.4.1, one caption a line, lower case) and
drops the tokens of a punctuation list. This module gives the same words from one regular expression. Two habits of the
original are kept, since published scores contain them: the list names brackets in upper case only, so that "(" stays
as "-lrb-", and it names single signs only, so that "!!" stays while "!" goes.

Java reads all captions as one text, and in rare cases looks on into the next line ("plan B" or "plan B." by the first
word of the next caption). Here a caption stands for itself.
"""

import re

# Letters, and the marks and digits that are not ASCII.
L = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2c00-\u2fef\u3005-\u3007\u3021-\u30fa"
    "\u30fc-\ud7ff\uf900-\ufdff\ufe70-\ufefe\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc"
)
APOS = "['\u2019]"
END = rf"(?![{L}\d])"  # no letter and no digit follows

# A full stop after these belongs to the word.
TITLES = (
    "mrs?|ms|drs?|jr|sr|ste?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ave|pres|"
    "lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|esq|bros|ph\\.d|ed\\.d"
)
PLACES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
)
CAPITAL_PLACES = "Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"  # other words when they are not capitalised
TIMES = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri"
FIRMS = (
    "inc|cos?|corp|pp?t[ye]s?|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys|invt|elec|natl|m[ft]g|dept|blvd|rd|cie|wm|jos"
)
OTHERS = "etc|al|seq|bldg|tel|est|ext|sq|vs|cf|treas|ph|alex"
ABBREVIATIONS = f"{TITLES}|{PLACES}|{TIMES}|{FIRMS}|{OTHERS}"
STOPPED = re.compile(rf"(?:[A-Za-z]|(?i:{ABBREVIATIONS})|{CAPITAL_PLACES})\.")
BEFORE_NUMBERS = "ca|figs?|prop|nos?|arts?|pp|op"
# One letter and a full stop end a sentence when one of these begins the next; otherwise they are an initial.
STARTS = (
    "A|About|According|Additionally|After|All|Also|Although|An|Another|As|At|Before|Both|But|By|Did|During|Each|Earlier|"
    "Following|For|From|He|Her|Here|His|How|However|If|In|It|Its|Last|Later|Many|More|Most|Now|On|Once|One|Other|Our|"
    "She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|Two|Under|Upon|We|When|While|What|Who|Why|Yet|You"
)
SIGNS = (
    "()\\[\\]{}<>=/\\\\%&+~^|\u00a1-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bc-\u00bf\u00d7\u00f7\u2016\u2017\u201a"
    "\u201e\u2020-\u2023\u2030-\u2038\u203b-\u2044\u20a0-\u20a8\u20aa-\u20ac\u2070-\u2bff\u3001-\u3003\u3008-\u3011"
)
# The first alternative that fits is taken, so longer ones stand first; what none of them takes is dropped.
TOKEN = re.compile(
    rf"""
    (?:[.,]*\s+)*+                                        # skipped at once, for speed
    ( [A-Za-z]++(?:-[A-Za-z]++)*(?=,?(?:\s|$))            # most words; the rest of this pattern is for the others
    | </?[A-Za-z][^<>]*> | <!-[^<>]*>
    | https?://[^\s<>|`"()\[\]{{}}]+[^\s<>|`"()\[\]{{}}.!?,;:&'*-]
    | [A-Za-z0-9][\w.%+-]*@[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*
    | (?:[\w-]+\.)+(?i:com|net|org|edu){END}
    | (?i:[A-Z]*[A-MO-Z](?=n['\u2019`]t) | n['\u2019`]ts?{END})                    # do n't
    | [{L}][{L}\d]*(?:[.!?][{L}][{L}\d]*)*(?={APOS}(?i:[smd]|re|ve|ll){END})        # dog 's
    | {APOS}(?:(?i:[smd]|re|ve|ll){END} | (?i:em|till?|cause) | [2-9]0s | \d\d(?=\s|$) | n(?![{L}]){APOS}?)
    | (?i:'t(?=(?:is|was)(?:{END}|n{APOS}t)) | y{APOS}(?=[{L}]) | [dlj]{APOS}(?![{L}]{{2}}) | ol'(?![{L}]))
    | (?i:[dol]{APOS}[{L}][{L}\d]+)(?:-[{L}\d]+)*                                   # o'clock
    | [A-HJ-XZn]{APOS}[{L}]{{2,}}
    | [{L}]*[aeiouyAEIOUY]{APOS}(?!em)[aeiouA-Z][{L}]*                              # ma'am
    | (?i:nor'easter|s'mores|ev'ry|li'l|nat'l|c'mon|c'est|(?:dunkin|somethin)')
    | [A-Z]+(?:[+&][A-Z]+)+ | (?i:c\+\+|[cf]\#) | [A-Z]*\$                          # AT&T
    | \d+-\d+/\d+{END} | [{L}\d]+(?:-[{L}]+){{0,2}}(?:/[{L}\d]+(?:-[{L}]+){{0,2}}){{1,2}}
    | [{L}\d][{L}\d.,]*(?:[-_](?:[A-Za-z](?:\.[A-Za-z])+\.|[{L}\d]+))+
    | (?i:pro-|anti-|-[lr][cr]b-)
    | [A-Za-z](?=\.\s+(?:{STARTS})\s) | [A-Za-z](?:\.[A-Za-z])*\.(?![{L}])
    | {STOPPED.pattern}(?![{L}]) | (?i:{BEFORE_NUMBERS})\.(?=\s?\d)
    | [{L}][{L}\d]*(?:[.!?][{L}][{L}\d]*)*(?:\.(?=[,;:]))?
    | (?:(?<!-)[-+])?(?:\d+(?:[.:,]\d+)+|(?:[.:,]\d+)+) | (?<!-)[-+]\d+ | [{L}\d]+
    | [<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]](?![{L}\d])                               # smileys
    | \#[{L}][{L}\d_]*[{L}\d] | @[A-Za-z_]\w* | [?!]{{2,}} | \*+ | \#+ | @+ | _+ | -{{5,}} | << | >> | [{SIGNS}]
    )""",
    re.VERBOSE,
)
ENTITIES = {"&amp;": " & ", "&lt;": " < ", "&gt;": " > ", "&quot;": " ", "&apos;": "'", "&nbsp;": " "}
ENTITY = re.compile("|".join(ENTITIES))
SPELLED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u2019": "'"}
SPELLED |= {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
SPELLED |= {"\u00a2": "cents", "\u00a3": "#", "\u00a4": "$", "\u20ac": "$"}
SPELLING = str.maketrans(SPELLED)
SPLIT = {
    "cannot": ["can", "not"],
    "gimme": ["gim", "me"],
    "gonna": ["gon", "na"],
    "gotta": ["got", "ta"],
    "lemme": ["lem", "me"],
    "wanna": ["wan", "na"],
}


def ptb_tokenize(text: str) -> list[str]:
    """The words of a caption in COCO's caption evaluation: PTB tokens, lower case, without punctuation.

    Source: Chen et al. 2015, arXiv:1504.00325, section 3.1.

    >>> ptb_tokenize("A dog's T-shirt isn't (very) clean.")
    ['a', 'dog', "'s", 't-shirt', 'is', "n't", '-lrb-', 'very', '-rrb-', 'clean']
    """
    bare = text.replace(", ", " ").removesuffix(".")
    is_plain = bare.isascii() and bare.replace(" ", "").isalpha()
    if is_plain and not STOPPED.fullmatch(text, text.rfind(" ") + 1):  # most often, and several times as fast
        words = bare.lower().split()
    else:
        if "&" in text:
            text = ENTITY.sub(lambda found: ENTITIES[found[0]], text)
        words = " ".join(TOKEN.findall(text)).lower().translate(SPELLING).split()
    if SPLIT.keys().isdisjoint(words):
        return words
    return [part for word in words for part in SPLIT.get(word, [word])]
