"""Which language a sentence in Latin letters is in, from its small words and its spelling.

Function words are a third of any prose and hard to avoid, so lists of them tell languages apart
without a model. Two pseudo-languages catch Chinese and Japanese spelt out in Latin letters.
"""

import importlib
import re
from collections.abc import Callable, Sequence

Detector = Callable[[Sequence[str]], str | None]

MIN_WORDS = 6  # of a sentence that can be told; formula scraps such as "Then , so ." cannot

_FUNCTION_WORDS = {
    "en": """the of and to in is that it for was on are as with be this by from at or an have not
        but we they which you all their there been if more when will would so no who what can had
        has its than then our these also into only other some could them about should how because
        where now let since both each must thus hence here two one us do does need get use just
        maybe therefore equals wait again check first next per over most such""",
    "de": """der die das und ist nicht ein eine einen einem einer zu von mit den dem des im auf für
        sich auch als an es wir ich sie er wird werden sind haben hat dass oder aber wenn dann so
        bei nach aus wie noch nur kann über zum zur also man durch sein war diese dieser dieses
        hier jetzt denn weil müssen muss gibt beide zwei gilt daher somit wieder zuerst ersten ob
        unter mehr alle""",
    "fr": """le la les des de du un une et est en que qui dans pour pas sur au aux avec ce cette ces
        il elle nous vous ils on ne se sont par plus ou mais comme donc si être avoir fait alors
        aussi deux tout tous leur leurs sa son ses car soit ainsi peut entre où même après je
        puisque puis chaque faut avons encore c'est l'on d'abord""",
    "es": """el la los las de del un una y es en que se no por con para su al lo como más pero sus
        le ya o fue ha son si porque esta este entre cuando muy sin sobre también hay donde todo
        desde nos uno ni ese eso qué ser dos entonces así cada puede tenemos luego pues debe
        primero ahora igual estos esto es""",
    "it": """il lo la i gli le di del della dei delle dell un una uno e è che in per non con si da
        al alla nel nella sono come più ma anche se o questo questa ci quindi dove quando ha hanno
        essere tra due tutti ogni perché così poi può allora cui suo sua dal dalla abbiamo dunque
        ora prima noi sui""",
    "pt": """o a os as de do da dos das um uma e é que em no na nos nas para com não se por mais ao
        aos como mas ou ser foi são seu sua também quando muito já está há entre sem então cada
        pode temos isso este esta esse essa pelo pela dois duas nós portanto assim logo qual onde
        agora primeiro""",
    "nl": """de het een en van is dat in op te zijn voor met die niet aan er om ook als maar dan nog
        bij uit wordt kan we ze hij naar door over of heeft hebben worden deze dit dus moet
        twee alle waar nu omdat want tot geen wat zo wij ik eerst moeten kunnen elke elk daarom""",
    "pl": """i w na z że się nie do to jest o jak po co ale za od przez przy dla są czy tak tylko
        być może już lub jego jej ich ten ta tego tej które który która ponieważ więc mamy oraz
        gdy jeśli każdy dwa wtedy zatem teraz musimy""",
    "vi": """của và là các có được cho không một những này trong với người khi để đã từ đến như vào
        ra nên thì hay ta chúng nếu vì mà số bằng cả hai đó phải cần tính vậy do ở trên theo""",
    "id": """yang dan di dari ini untuk dengan pada adalah itu tidak dalam kita akan ke karena atau
        juga jika maka oleh ada dapat sebagai bisa lebih kami dua harus setiap sehingga jadi
        tersebut kemudian""",
    "sv": """och det är inte en av till med som den att för på de ett har vi kan ska eller om så
        från vid men också nu två alla detta måste där hur jag när efter över mellan då eftersom
        varje denna dessa blir får innan igen först""",
    "da": """og det er ikke en af til med som den at for på de et har vi kan skal eller hvis så fra
        om ved men også nu to alle dette der hvor jeg når efter over mellem da fordi hver denne
        disse bliver får før igen først må i""",
    "tr": """ve bir bu için ile da de çok olarak daha olan gibi kadar ne var o sonra en ama değil
        ise her iki biz olduğu eğer şimdi çünkü yani olur önce""",
}
LANGUAGES = tuple(_FUNCTION_WORDS)
_SPELLING = {
    "de": r"[äöüß]|sch|ung\b|lich\b|keit\b|\bge\w{3,}t\b|ieren\b",
    "fr": r"[çœêèùâîô]|\b[ldcsnqj]['’]|eux\b|ement\b|tion\b",
    "es": r"[ñáíóú]|ción\b|dad\b|mente\b|\bll",
    "it": r"[àèìòù]\b|zione\b|\b\w*gli\w*\b|ità\b|tto\b|zz",
    "pt": r"[ãõâê]|ção\b|ções\b|nh|lh|mente\b",
    "nl": r"ij|aa|ee[ntr]\b|oe|heid\b|\bge\w{3,}d\b",
    "pl": r"[ąćęłńśźż]|sz|cz|rz",
    "vi": r"[ăđơưạảấầẩẫậắằẵặẹẻẽếềểễệỉịọỏốồổỗộớờởợụủứừửữựỳỵỷỹ]",
    "sv": r"[åäö]|ning\b|het\b|att\b|ck",
    "da": r"[åæø]|else\b|hed\b|ning\b|erne\b",
    "tr": r"[ğışçöü]|lar\b|ler\b",
    "id": r"\b(?:me|ber|ter|pe)[nmr]?\w{4,}|nya\b|kan\b",
    "en": r"tion\b|ing\b|th|wh|ght|ness\b|ould\b|ed\b",
}
_SPELLING_WEIGHT = 0.3

_LISTS = {name: frozenset(text.split()) for name, text in _FUNCTION_WORDS.items()}
_WEIGHTS = {
    word: 1.0 / sum(word in other for other in _LISTS.values())
    for words in _LISTS.values()
    for word in words
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _SPELLING.items()}

_PINYIN = re.compile(
    r"(?:(?:[bpmfdtnlgkhjqxryw]|zh?|ch?|sh?)?"
    r"(?:iang|iong|uang|ueng|ang|eng|ing|ong|ian|iao|uai|uan|ai|ei|ao|ou|an|en|in|un|ia|ie|iu|ua"
    r"|uo|ui|ue|er|[aeiou]))+"
)
_ROMAJI = re.compile(
    r"(?:(?:[kgsztdnhbpmr]?y|[kgsztdnhbpmrwfjy]|sh|ch|ts|kk|tt|pp|ss|ssh|tch)?[aiueo]|n(?![aiueoy]))+"
)
_ACCENTS = str.maketrans("āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜü", "aaaaeeeeiiiioooouuuuuuuuu")


def is_function_word(word: str) -> bool:
    return word.lower() in _WEIGHTS


def detect(words: Sequence[str]) -> str | None:
    """The language of a sentence's words (of `LANGUAGES`, or `pinyin`, `romaji`); None = unsure."""
    if len(words) < MIN_WORDS:
        return None
    lower = [word.lower().replace("’", "'") for word in words]
    scores = {
        name: sum(_WEIGHTS[word] for word in lower if word in members)
        for name, members in _LISTS.items()
    }
    sentence = " ".join(lower)
    for name, pattern in _PATTERNS.items():
        # A match counts once a word: long words hold many.
        hits = min(len(pattern.findall(sentence)), len(lower))
        scores[name] += _SPELLING_WEIGHT * hits
    ranked = sorted(scores, key=lambda name: -scores[name])
    best, second = scores[ranked[0]], scores[ranked[1]]
    if spelt_out := _spelt_out(lower, scores["en"]):
        return spelt_out
    # A tenth of the words at least, and clear of the next language: else let it be.
    if best < 0.1 * len(lower) + 0.2 or best < 1.25 * second:
        return None
    return ranked[0]


def _spelt_out(lower: Sequence[str], english: float) -> str | None:
    """`pinyin` or `romaji` where nearly all words are such syllables and few are English."""
    if english > 0.2 * len(lower):
        return None
    plain = [word.translate(_ACCENTS)[:40] for word in lower]
    for name, pattern in (("pinyin", _PINYIN), ("romaji", _ROMAJI)):
        share = sum(pattern.fullmatch(word) is not None for word in plain) / len(plain)
        if share >= 0.85 and not _is_known(lower, pattern):
            return name
    return None


def _is_known(lower: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Whether function words of a real language that are no such syllables speak for it, or many
    do: Italian and Indonesian are made of open syllables too."""
    best = max(sum(word in members for word in lower) for members in _LISTS.values())
    return best >= 0.34 * len(lower)


def lingua_detector(languages: Sequence[str], *, distance: float = 0.2) -> Detector:
    """lingua (`pip install lingua-language-detector`, 96 MB) restricted to a run's languages."""
    lingua = importlib.import_module("lingua")
    codes = [getattr(lingua.IsoCode639_1, name.upper()) for name in languages]
    builder = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*codes)
    detector = builder.with_minimum_relative_distance(distance).build()

    def detect_with_lingua(words: Sequence[str]) -> str | None:
        if len(words) < MIN_WORDS:
            return None
        language = detector.detect_language_of(" ".join(words))
        return None if language is None else language.iso_code_639_1.name.lower()

    return detect_with_lingua
