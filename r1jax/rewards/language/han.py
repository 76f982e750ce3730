"""Characters that tell simplified from traditional Chinese."""

_PAIRS = (
    "们們这這个個来來时時说說对對会會问問题題数數为為与與过過还還从從后後边邊两兩种種样樣"
    "条條结結给給经經间間关關长長开開东東车車马馬见見现現觉覺学學实實证證设設计計算筭论論"
    "应應该該当當将將则則总總积積减減乘乘项項标標点點线線图圖圆圓线線单單变變换換约約满滿"
    "无無须須虑慮并並产產义義书書习習乐樂亲親众眾优優传傳体體余餘儿兒几幾击擊刘劉创創别別"
    "剩剩务務动動劳勞势勢区區医醫华華协協卖賣卫衛压壓厅廳历歷双雙发發号號听聽启啟员員响響"
    "国國块塊报報场場坏壞处處备備复復头頭夹夾够夠奖獎妇婦孙孫宁寧宝寶审審宽寬导導层層岁歲"
    "师師带帶帮幫库庫废廢异異弃棄张張强強归歸录錄忆憶怀懷态態总總恶惡惊驚惯慣战戰户戶执執"
    "扩擴扫掃护護择擇拥擁换換据據旧舊晓曉显顯机機权權极極构構检檢欢歡气氣没沒测測济濟温溫"
    "湾灣灭滅灯燈烧燒热熱爱愛状狀独獨环環电電画畫疗療盐鹽监監盘盤着著码碼础礎确確离離积積"
    "称稱稳穩穷窮竞競笔筆简簡类類紧緊红紅级級纪紀纯純纸紙组組细細织織终終绍紹统統继繼绩績"
    "续續维維综綜绿綠编編缘緣网網罗羅职職联聯脑腦节節荣榮药藥获獲虽雖补補视視规規观觀览覽"
    "订訂认認讨討让讓训訓议議记記讲講许許评評词詞试試诗詩话話详詳语語误誤请請读讀课課谁誰"
    "调調谈談谢謝负負财財责責败敗货貨质質贵貴费費资資赛賽赢贏轮輪软軟轻輕较較输輸达達迁遷"
    "运運进進远遠连連选選递遞适適邻鄰释釋里裡钟鐘钱錢铁鐵错錯锐銳门門闭閉闻聞队隊阳陽阶階"
    "际際陆陸险險随隨难難静靜页頁顺順预預领領频頻颗顆验驗骤驟鱼魚鸟鳥鸡雞麦麥黄黃齐齊龙龍"
)
_BOTH = set(_PAIRS[::2]) & set(_PAIRS[1::2])
SIMPLIFIED = frozenset(_PAIRS[::2]) - _BOTH
TRADITIONAL = frozenset(_PAIRS[1::2]) - _BOTH


def variety(text: str) -> str | None:
    """`zh-Hans`, `zh-Hant`, or None where the characters are common to both."""
    simplified = sum(c in SIMPLIFIED for c in text)
    traditional = sum(c in TRADITIONAL for c in text)
    if simplified == traditional:
        return None
    return "zh-Hans" if simplified > traditional else "zh-Hant"
